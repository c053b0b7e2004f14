"""Uses a model: for one image, many images, an exported file or a server."""

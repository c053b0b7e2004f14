"""What a run has learned, used: one image at a time, a folder, a file for a phone, a server."""

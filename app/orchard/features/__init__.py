"""From pixels to features: the backbones, how they are built, and the engines that run them."""

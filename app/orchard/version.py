"""What the distribution is called and which version this is; the build takes it from here."""

DISTRIBUTION = "orchard-images"
"""The name that pip knows; on the package index ``orchard`` is somebody else's."""

VERSION = "0.1.0"

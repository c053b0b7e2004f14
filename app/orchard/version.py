"""The name of the distribution and its version; the build reads them from here."""

DISTRIBUTION = "orchard-images"
"""The name that pip knows; on the package index ``orchard`` is somebody else's."""

VERSION = "0.1.0"

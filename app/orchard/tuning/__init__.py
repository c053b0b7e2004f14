"""Fine-tuning: trains the last blocks of a backbone on an output's images before features are extracted.

::

    images ─ decode, views ─► front blocks ─► activations (float16, a file) ─► last blocks + head, trained ─► weights

The front of the network stays as it is and is computed once a view; what comes after it is trained from there, an epoch
being one pass over one view of each image. The weights are a part of the output, and make another backbone.
"""

"""Classifies frames as they arrive, with an exported file.

::

    camera, video, folder ─► newest frame ─► exported file (ONNX or OpenVINO) ─► one line of JSON

It needs neither Spark, TensorFlow nor pyarrow. It imports NumPy, Pillow, click, the file's runtime (ONNX Runtime or
OpenVINO), and OpenCV only for cameras and videos.
"""

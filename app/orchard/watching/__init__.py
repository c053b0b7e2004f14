"""Classifies frames as they come, with an exported file.

::

    camera, video, folder ─► newest frame ─► exported file (ONNX or OpenVINO) ─► one line of JSON

It runs where neither Spark, TensorFlow nor pyarrow is installed: it imports NumPy, Pillow, click, what runs the file,
and OpenCV for cameras and videos alone.
"""

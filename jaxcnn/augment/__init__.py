"""Random changes to images, on the device: choosing (``sample``) apart from applying (``apply``)."""

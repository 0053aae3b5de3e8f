"""Random changes to images, on the device: choosing (``sample``) apart from applying (``apply``).

A choice is a pytree of arrays with one row per image. It can be looked at, written down and applied again; ``apply`` has
no key. Each noun has its module; ``pipeline`` puts them in order.
"""

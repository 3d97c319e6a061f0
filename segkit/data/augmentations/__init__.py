"""Changes of a training sample beyond those of `segkit.data.transforms`: one a file; plug-ins bring them."""

"""Networks: encoders, difference modules, heads, and the readers of other people's weights.

This package file stays empty so that `changenet.model.catalogue` loads without torch.
"""

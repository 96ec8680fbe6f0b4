"""Cut a good sub-network out of a large pretrained language model and grow it into a small one."""

__version__ = "0.1.0"

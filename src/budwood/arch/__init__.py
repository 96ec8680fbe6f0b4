"""Describe and count decoder language models; never touches a tensor."""

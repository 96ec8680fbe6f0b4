"""The pretrained model, described and measured."""

"""Data sets as uint8 tensors: loaders, splits and on-device augmentation."""

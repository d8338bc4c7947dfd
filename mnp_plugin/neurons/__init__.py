"""Neurons of any net: masks, magnitude, saliency, stopping, compaction."""

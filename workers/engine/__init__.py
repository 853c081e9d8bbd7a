"""The annotator: loading, chat template, packing, and the forward pass up to the layer a direction reads."""

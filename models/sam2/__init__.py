"""SAM 2.1: the network of transformers, with the folded decoder and the filters of `models.sam`."""

"""Encoder-decoders that write text: which source words decide theirs, perturbation, and sample sentences."""

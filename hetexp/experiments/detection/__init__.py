"""Weakly supervised segmentation by any detector (Tables 1 and 2), and explanations of single images."""

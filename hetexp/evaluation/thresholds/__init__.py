"""Strategies of binarisation: what gives each map its threshold, one file and one line in `registry` each."""

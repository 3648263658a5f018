"""Perturbation and localisation of any model that answers questions (Figure 6), and single explanations."""

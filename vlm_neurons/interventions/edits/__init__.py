"""Edits of pictures and texts: does a neuron follow what its explanation names?"""

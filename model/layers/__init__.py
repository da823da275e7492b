"""Concepts of the network, one a file: attention, encoder, decoder, heads, trunks."""

"""Runs a command on the code paths of an x86 processor without AVX-512 and VNNI, on one that has them."""

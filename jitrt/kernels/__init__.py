"""Kernels: one file each, holding the kernel, its formula and its template; found by discovery."""

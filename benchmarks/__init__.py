"""Benchmarks; README.md in this folder explains how they measure."""

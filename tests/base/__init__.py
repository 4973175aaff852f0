"""Tests of pipeline.base."""

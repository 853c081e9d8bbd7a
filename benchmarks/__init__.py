"""Measurements: how fast the service is and how well it reads. No part of the test suite."""

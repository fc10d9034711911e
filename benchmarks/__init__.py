"""What bnjax is measured against, and how: `python -m benchmarks.phase_diagram`."""

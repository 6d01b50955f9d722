"""Rendered photographs of buildings that never stood: paint, design, mesh, buildings, camera, views."""

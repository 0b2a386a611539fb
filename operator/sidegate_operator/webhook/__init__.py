"""Admission: what the API server asks before it stores an object. A process of its own, in several replicas, without kopf."""

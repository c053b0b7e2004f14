"""Orchard on Kubernetes and on EMR on EKS."""

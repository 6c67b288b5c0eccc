"""Who plumb is compared with: each as its users run it, on the same pipelines and on the same machine."""

"""Prometheus metrics."""
def metrics(request):
    return ''

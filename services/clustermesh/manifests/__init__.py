"""Service manifests: Kubernetes' Service and EndpointSlice, and the API's own form, as YAML or JSON."""

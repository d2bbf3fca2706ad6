#!/usr/bin/env bash
# Calls the API with grpcurl and the certificates of the running lab. Any gRPC tool works the same way: TLS with a
# client certificate, the server named as in its certificate, and reflection for the messages.
set -eu
axoneme=${AXONEME:-axoneme}
eval "$("$axoneme" lab env)"

call() { # SERVICE ARGUMENT…
  local service=$1
  shift
  grpcurl -cacert "$AXONEME_CA" -cert "$AXONEME_CERT" -key "$AXONEME_KEY" \
    -authority "$service.$AXONEME_TRUST_DOMAIN" "$@"
}

echo "# services of the relay"
call relay "$AXONEME_RELAY" list
echo "# its status"
call relay "$AXONEME_RELAY" observer.Observer/ServerStatus
echo "# nodes of the cluster"
call identity -d '{"page_size": 10}' "$AXONEME_IDENTITY" axoneme.api.identity.v1.IdentityService/ListNodes
echo "# policies"
call policy "$AXONEME_POLICY" axoneme.api.policy.v1.PolicyService/ListPolicies

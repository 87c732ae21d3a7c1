#!/usr/bin/env bash
# Three offers, 200 visitors, by curl alone: bash examples/curl.sh [URL]
# Visitors with a full basket take free shipping, others the discount.
set -euo pipefail
URL=${1:-http://127.0.0.1:8080}

call() { # METHOD PATH [JSON]; with BANDEXA_API_KEY set, it is sent
    curl --silent --show-error --fail-with-body --request "$1" "$URL$2" \
        --header 'content-type: application/json' \
        ${BANDEXA_API_KEY:+--header "authorization: Bearer $BANDEXA_API_KEY"} \
        ${3:+--data "$3"}
}
field() { sed -E "s/.*\"$1\":\"?([^,\"}]*).*/\1/"; } # of a JSON answer

call PUT /bandits/curl-shop '{
    "policy": "linear_ts", "context": {"shape": [2]}, "encoder": {"name": "per_action"}}' > /dev/null
call PUT /bandits/curl-shop/actions '{
    "actions": [{"id": "ten-percent"}, {"id": "free-shipping"}, {"id": "nothing"}]}' > /dev/null

taken=0
for visit in $(seq 200); do
    full=$((visit % 2))
    decision=$(call POST /select "{\"bandit\": \"curl-shop\", \"context\": [$full, 1]}")
    offer=$(field 'action":\{"id' <<< "$decision")
    reward=0
    if [[ $full == 1 && $offer == free-shipping ]] || [[ $full == 0 && $offer == ten-percent ]]; then
        reward=1
        taken=$((taken + 1))
    fi
    id=$(field decision_id <<< "$decision")
    call POST /reward "{\"decision_id\": \"$id\", \"reward\": $reward}" > /dev/null
done
echo "offers taken: $taken of 200"
call POST /bandits/curl-shop/score '{"context": [1, 1]}'
echo

#!/usr/bin/env bash
# A bandit of three offers and 100 visits, with curl alone:
#
#   bash examples/curl.sh [URL]
#
# Visitors with a full basket take free shipping, the others take the discount. The script reports
# these rewards, prints how many offers were taken, and then what the bandit expects of each offer.
# For a server with API keys, set BANDEXA_API_KEY.
set -euo pipefail
URL=${1:-http://127.0.0.1:8080}

# Call METHOD PATH [JSON] and print the answer.
call() {
    curl --silent --show-error --fail-with-body --request "$1" "$URL$2" \
        --header 'content-type: application/json' \
        ${BANDEXA_API_KEY:+--header "authorization: Bearer $BANDEXA_API_KEY"} \
        ${3:+--data "$3"}
}

# Put the text after the first $2 in the JSON $1, up to the next quote, in $found.
find_after() { found=${1#*"$2"} && found=${found%%\"*}; }

call PUT /bandits/curl-shop '{
    "policy": "linear_ts", "context": {"shape": [2]}, "encoder": {"name": "per_action"}}' > /dev/null
call PUT /bandits/curl-shop/actions '{
    "actions": [{"id": "ten-percent"}, {"id": "free-shipping"}, {"id": "nothing"}]}' > /dev/null

taken=0
for visit in {1..100}; do
    full=$((visit % 2))
    decision=$(call POST /select "{\"bandit\": \"curl-shop\", \"context\": [$full, 1]}")
    find_after "$decision" '"action":{"id":"' && offer=$found
    find_after "$decision" '"decision_id":"' && id=$found
    reward=0
    if [[ $full == 1 && $offer == free-shipping ]] || [[ $full == 0 && $offer == ten-percent ]]; then
        reward=1
        taken=$((taken + 1))
    fi
    call POST /reward "{\"decision_id\": \"$id\", \"reward\": $reward}" > /dev/null
done
echo "offers taken: $taken of 100"
call POST /bandits/curl-shop/score '{"context": [1, 1]}'
echo

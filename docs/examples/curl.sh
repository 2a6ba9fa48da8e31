#!/usr/bin/env bash
# Every API of r1-serve with nothing but curl. Each prints the server's JSON as it comes.
#
#     bash curl.sh                     all of them
#     bash curl.sh stream votes        some: models presets chat stream votes responses messages tokenize
#
# OPENAI_BASE_URL (http://127.0.0.1:8000/v1), OPENAI_API_KEY, and MODEL (the first that is served).
set -euo pipefail

url=${OPENAI_BASE_URL:-http://127.0.0.1:8000/v1}
ask() { # path, and a body where it is a POST; an error's body is shown, and ends the script
  curl -sSN --fail-with-body -H "Authorization: Bearer ${OPENAI_API_KEY:-none}" "$url/$1" ${2:+-d "$2"} && echo
}

if [[ ${1:-} == --help ]]; then
  sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"
  exit
fi

first=$(ask models | sed -E 's/.*"data":\[\{"id":"([^"]+)".*/\1/')
model=${MODEL:-$first}
question='{"role": "user", "content": "What is 47 + 85?"}'

for what in ${*:-models presets chat stream votes responses messages tokenize}; do
  echo "# $what"
  case $what in
    models) ask models ;;
    presets) ask presets ;;
    chat) # the preset by the model's name; 512 tokens of thinking at most
      ask chat/completions "{\"model\": \"$model:math\", \"messages\": [$question],
        \"thinking_token_budget\": 512}" ;;
    stream) # thinking in reasoning_content, then the answer in content; usage last
      ask chat/completions "{\"model\": \"$model\", \"messages\": [$question], \"stream\": true,
        \"stream_options\": {\"include_usage\": true}}" ;;
    votes) # the tally is in r1.votes
      ask chat/completions "{\"model\": \"$model:math\", \"messages\": [$question], \"votes\": 8}" ;;
    responses)
      ask responses "{\"model\": \"$model\", \"input\": \"What is 47 + 85?\",
        \"reasoning\": {\"effort\": \"low\"}}" ;;
    messages)
      ask messages "{\"model\": \"$model\", \"messages\": [$question], \"max_tokens\": 2000,
        \"thinking\": {\"type\": \"enabled\", \"budget_tokens\": 512}}" ;;
    tokenize) # beside /v1, not under it
      ask ../tokenize "{\"model\": \"$model\", \"messages\": [$question]}" ;;
    *)
      echo "curl.sh: no example $what; see --help" >&2
      exit 2 ;;
  esac
done

# shellcheck shell=bash
# Sourced after show.sh: a second client that keeps decrypting while keys change.
# shellcheck disable=SC2154  # dir, tenants and columns come from the demo

# A second client: decrypts 500 rows of each tenant, over and over, until told to stop.
# Counts rounds in $dir/reader.rounds; any failure ends it with a message in $dir/reader.error.
reader() {
    local tenant rounds=0
    while [[ ! -e $dir/reader.stop ]]; do
        for tenant in "${tenants[@]}"; do
            keyward decrypt "$tenant/customer-pii" --csv --columns "$columns" \
                --in "$dir/$tenant.sample.enc.csv" --out "$dir/$tenant.reader.csv" \
                </dev/null >/dev/null 2>"$dir/reader.error" || return 1
            cmp "$dir/$tenant.sample.csv" "$dir/$tenant.reader.csv" >"$dir/reader.error" 2>&1 || return 1
            rm -f "$dir/$tenant.reader.csv"
        done
        rounds=$((rounds + 1))
        printf '%d\n' "$rounds" >"$dir/reader.rounds.new" && mv "$dir/reader.rounds.new" "$dir/reader.rounds"
    done
}

reader_rounds() { cat "$dir/reader.rounds" 2>/dev/null || echo 0; }

# Waits until the reader has finished $1 rounds more.
reader_advance() {
    local goal=$(($(reader_rounds) + $1)) deadline=$((SECONDS + 60))
    until (($(reader_rounds) >= goal)); do
        kill -0 "$reader_pid" 2>/dev/null || die "the second client failed: $(cat "$dir/reader.error")"
        ((SECONDS < deadline)) || die 'the second client did not get on within 60 s'
        sleep 0.05
    done
}

# Starts the reader, and waits for its first round.
reader_start() {
    rm -f "$dir/reader.stop" "$dir/reader.rounds"
    reader &
    reader_pid=$!
    reader_advance 1
}

# Two rounds more, so that it has also read after the change; then it must end well.
reader_stop() {
    reader_advance 2
    touch "$dir/reader.stop"
    wait "$reader_pid" || die "the second client failed: $(cat "$dir/reader.error")"
    reader_pid=
}

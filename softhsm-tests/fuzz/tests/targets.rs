//! Every target, with a budget that fits a normal test run.

use keyward_fuzz::engine::run;
use keyward_fuzz::targets::{backup, card, ceremony, ciphertext, config, envelope, evidence, text, values};

#[test]
fn ciphertexts() {
    run(&ciphertext::seeds(), 200_000, ciphertext::ciphertext);
}

#[test]
fn text_forms() {
    run(&text::seeds(), 300_000, text::text_form);
}

#[test]
fn configurations() {
    run(&config::seeds(), 20_000, config::config);
}

#[test]
fn contexts() {
    run(&values::seeds(), 100_000, values::context);
}

#[test]
fn blind_indexes() {
    run(&values::seeds(), 100_000, values::index);
}

#[test]
fn recovery_exports() {
    run(&backup::seeds(), 100_000, backup::head);
}

#[test]
fn custodian_cards() {
    run(&card::texts(), 20_000, card::text);
    run(&card::contents(), 20_000, card::content);
}

#[test]
fn ceremonies() {
    run(&ceremony::records(), 20_000, ceremony::carried);
    run(&ceremony::transcripts(), 20_000, ceremony::transcript);
}

#[test]
fn signing_envelopes() {
    run(&envelope::seeds(), 30_000, envelope::envelope);
    run(&envelope::seeds(), 100_000, envelope::statement);
}

#[test]
fn evidence_of_tokens() {
    run(&evidence::card(), 10_000, evidence::attestation);
    run(&evidence::staff(), 20_000, evidence::certification);
    run(&evidence::list(), 20_000, evidence::revocation);
}

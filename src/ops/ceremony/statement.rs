//! What custodians read and sign. The lines that a program reads too are written as
//! `Word: value`, and docs/ceremonies.md says which.

use std::fmt::Write;

use crate::clock::Date;
use crate::id::{CeremonyId, DeploymentId};
use crate::keyring::ceremony::CeremonyAction;
use crate::keyring::credential::CredentialId;
use crate::keyring::roster::Members;
use crate::token::printable::{quote, unquote};

/// What stands in every statement.
pub(super) struct Head<'a> {
    pub(super) id: CeremonyId,
    pub(super) deployment: DeploymentId,
    pub(super) proposer: &'a str,
    pub(super) reason: &'a str,
    pub(super) created: Date,
    pub(super) expires: Date,
}

/// The statement of a ceremony that these members decide.
pub(super) fn text(head: &Head<'_>, action: &CeremonyAction, deciding: &Members) -> String {
    let mut text = String::new();
    let mut line = |line: &str| {
        text.push_str(line);
        text.push('\n');
    };
    line("KEYWARD CEREMONY");
    line(&format!("Ceremony: {}", head.id));
    line(&format!("Deployment: {}", head.deployment));
    line(&format!("Action: {}", action.as_str()));
    line("");
    what(action).iter().for_each(|said| line(said));
    if let Some(members) = action.new_members() {
        line("");
        roster(members).lines().for_each(&mut line);
    }
    line("");
    line(&decides(action, deciding));
    line(&format!("Proposed by: {}", quote(head.proposer)));
    line(&format!("Reason: {}", quote(head.reason)));
    line(&format!("Proposed: {}", date(head.created)));
    line(&format!("Expires: {}", date(head.expires)));
    text.truncate(text.trim_end().len());
    text
}

/// The reason in a statement, as it was given.
pub(in crate::ops) fn reason_of(statement: &str) -> Option<String> {
    // The last one: nothing after it is of anybody's choosing, and whatever is before it is quoted, or a name.
    let quoted = statement.lines().rev().find_map(|line| line.strip_prefix("Reason: "))?;
    unquote(quoted)
}

fn decides(action: &CeremonyAction, members: &Members) -> String {
    let count = members.custodians().len();
    match action {
        CeremonyAction::Found(_) => format!("This needs the signatures of all {count} custodians."),
        _ => format!("This needs the signatures of any {} of {count} custodians.", members.quorum()),
    }
}

/// What is done, in sentences.
fn what(action: &CeremonyAction) -> Vec<String> {
    let lines: &[&str] = match action {
        CeremonyAction::Found(_) => &[
            "A new root key is made in the HSM. Its backup key is split among the",
            "custodians below. Every tenant gets a new key under it, and the root key",
            "that one operator holds is destroyed. This cannot be undone.",
        ],
        CeremonyAction::RotateRoot => &[
            "A new root key is made in the HSM. Its backup key is split among the",
            "custodians of today. Every tenant gets a new key under it, and the old root",
            "key and its shares are destroyed. This cannot be undone.",
        ],
        CeremonyAction::ChangeRoster(_) => &[
            "The custodians below take the place of those of today. A new root key is made",
            "in the HSM, and its backup key is split among them. Every tenant gets a new",
            "key under it, and the old root key and its shares are destroyed.",
        ],
        CeremonyAction::RotateTenant(tenant) => {
            return vec![
                format!("Tenant: tenants/{tenant}"),
                "The tenant gets a new key-encryption key; its data stays readable.".into(),
            ];
        }
        CeremonyAction::Destroy(name) => {
            return vec![
                format!("Resource: {name}"),
                "It is destroyed for ever. Whatever was encrypted with it can never be".into(),
                "read again by anybody.".into(),
            ];
        }
        CeremonyAction::Unfreeze(name) => {
            return vec![format!("Resource: {name}"), "It was frozen, and works again.".into()];
        }
        CeremonyAction::SetMinVersion { key, version, today } => {
            let (from, to) = (today.min(version), today.max(version) - 1);
            let what = if version > today { "can no longer be decrypted" } else { "can be decrypted AGAIN" };
            return vec![
                format!("Resource: {key}"),
                format!("Minimum version: {version} (today {today})"),
                format!("Data of versions {from} to {to} {what}."),
            ];
        }
        CeremonyAction::MakeAdministrator { account, credential } => {
            return vec![
                format!("Account: accounts/{account}"),
                format!("Credential: {credential}"),
                "The account gets level 3. Whoever has this token and its PIN approves, alone,".into(),
                "the tokens and levels of others that operators propose.".into(),
            ];
        }
        CeremonyAction::ForgetErasureRoot(root) => {
            return vec![
                format!("Erasure root: {root}"),
                "It stands on the tokens and in no record of the store in use. It is destroyed on".into(),
                "every token. Copies of a store that were sealed under it can never be read again".into(),
                "by anybody.".into(),
            ];
        }
        CeremonyAction::MoveTenant { tenant, resident } => {
            let place = if *resident { "stays in the HSM for good" } else { "is kept wrapped in the store" };
            return vec![
                format!("Tenant: tenants/{tenant}"),
                format!("Its key-encryption key {place} from now on."),
            ];
        }
    };
    lines.iter().map(|line| (*line).to_owned()).collect()
}

/// The custodians, with the fingerprints of both keys.
fn roster(members: &Members) -> String {
    let mut text = format!("Quorum: {} of {}\n", members.quorum(), members.custodians().len());
    for custodian in members.custodians() {
        let (signing, agreement) = (custodian.signing().id(), CredentialId::of(custodian.agreement().spki()));
        // Writing into memory cannot fail.
        writeln!(
            text,
            "Custodian: {}\n  signs with {signing}\n  opens its share with {agreement}",
            custodian.name()
        )
        .unwrap_or_default();
    }
    text + &format!("Roster: {}", hex::encode(members.digest()))
}

/// RFC 3339, UTC, whole seconds.
pub(in crate::ops) fn date(date: Date) -> String {
    let seconds = i64::try_from(date.millis() / 1000).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).map_or_else(|_| "-".into(), |time| time.to_string())
}

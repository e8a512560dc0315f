//! Ceremonies and rosters as people and scripts see them.

use serde_json::{Value, json};

use crate::cli::Shell;
use crate::cli::failure::Failure;
use crate::cli::view::{Fields, View, object, time, word};
use crate::keyring::credential::CredentialId;
use crate::rpc::proto::ceremony::State;
use crate::rpc::proto::{Ceremony, Custodian, Roster};
use crate::token::printable::Statement;

/// A ceremony in one line.
pub(super) struct Row<'a>(pub(super) &'a Ceremony);

impl View for Row<'_> {
    fn fields(&self) -> Fields {
        let Self(ceremony) = self;
        vec![
            ("name", json!(ceremony.name)),
            ("action", json!(ceremony.action)),
            ("state", state(ceremony.state())),
            ("approvals", json!(format!("{} of {}", ceremony.approvals.len(), ceremony.needed))),
            ("missing", json!(ceremony.missing.join(", "))),
            ("proposer", json!(ceremony.proposer)),
            ("create_time", time(ceremony.create_time.as_ref())),
            ("expire_time", time(ceremony.expire_time.as_ref())),
        ]
    }
}

/// A ceremony with all that it has; the statement apart.
struct Full<'a>(&'a Ceremony);

impl View for Full<'_> {
    fn fields(&self) -> Fields {
        let Self(ceremony) = self;
        let mut fields = Row(ceremony).fields();
        let approved = ceremony.approvals.iter().map(|approval| approval.custodian.clone());
        fields.extend([
            ("approved_by", json!(approved.collect::<Vec<_>>().join(", "))),
            ("deployment", json!(hex::encode(&ceremony.deployment))),
            ("roster_digest", json!(hex::encode(&ceremony.roster_digest))),
            ("step", json!(ceremony.step)),
            ("done", json!(ceremony.done)),
            ("total", json!(ceremony.total)),
            ("finish_time", time(ceremony.finish_time.as_ref())),
            ("outcome", json!(ceremony.outcome)),
            ("waiting_for", json!(ceremony.waiting_for)),
        ]);
        fields
    }
}

/// The ceremony, and its statement word for word.
pub(super) fn in_full(shell: &mut Shell, ceremony: &Ceremony) -> Result<(), Failure> {
    if shell.print.is_json() {
        let mut fields = Full(ceremony).fields();
        fields.push(("statement", json!(ceremony.statement)));
        fields.push(("custodians", ceremony.custodians.iter().map(custodian).collect()));
        return shell.print.answer("", &object(fields));
    }
    // What a daemon of ours wrote has nothing that could steer the terminal; another one might.
    match Statement::new(&ceremony.statement) {
        Ok(statement) => shell.print.show(statement.as_str()),
        Err(error) => shell.print.warn(&format!("the statement cannot be shown: {error}")),
    }
    shell.print.view(&Full(ceremony))
}

impl View for Roster {
    fn fields(&self) -> Fields {
        let custodians = self.custodians.iter().map(|one| (one.name.clone(), custodian(one))).collect();
        vec![
            ("name", json!(self.name)),
            ("quorum", json!(self.quorum)),
            ("custodians", Value::Object(custodians)),
            ("digest", json!(hex::encode(&self.digest))),
            ("ceremony", json!(self.ceremony)),
            ("create_time", time(self.create_time.as_ref())),
        ]
    }
}

fn custodian(custodian: &Custodian) -> Value {
    json!({
        "name": custodian.name,
        "kind": custodian.kind,
        "algorithm": custodian.algorithm,
        "signs_with": CredentialId::of(&custodian.signing_key).to_string(),
        "opens_share_with": CredentialId::of(&custodian.agreement_key).to_string(),
    })
}

/// Whether nothing more happens.
pub(super) fn is_final(state: State) -> bool {
    matches!(state, State::Done | State::Expired | State::Cancelled | State::Failed)
}

fn state(state: State) -> Value {
    word(state.as_str_name(), "")
}

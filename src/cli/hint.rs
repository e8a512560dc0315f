//! What to do next, and the exit code, by the reason of a refusal (docs/errors.md).

use super::exit::Exit;

/// One reason.
#[derive(Debug)]
pub(crate) struct Row {
    /// As in google.rpc.ErrorInfo, or a reason of the client.
    pub reason: &'static str,
    /// The exit code.
    pub exit: Exit,
    /// The next step, or nothing where the message says it all.
    pub hint: &'static str,
}

/// The row of a reason.
pub(crate) fn row(reason: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.reason == reason)
}

macro_rules! rows {
    ($($reason:literal $exit:ident $hint:literal)*) => {
        &[$(Row { reason: $reason, exit: Exit::$exit, hint: $hint }),*]
    };
}

const ROWS: &[Row] = rows! {
    "ALREADY_EXISTS" Refused "choose another name; names are never used again"
    "AMBIGUOUS_CALLER" NotPermitted "`keywardd --check-config` names the two; an administrator takes your user or group from one [[principal]]"
    "APPROVAL_REFUSED" Refused "look at it again with `keyward ceremony show ID` or `keyward admin show ID`; each person approves once, with a token that is on record for that"
    "ARGUMENT_INVALID" Refused ""
    "AUDIT_TAMPERED" Integrity "run `as_keyward audit verify`, keep a copy of the directory as it is, then follow the runbook"
    "AUDIT_UNAVAILABLE" Unavailable "make room on the disk of the audit log, then see `keyward status`; it resumes by itself"
    "AUDIT_UNSOUND" Integrity "keep a copy of the directory as it is, then follow the runbook"
    "CALLER_STALLED" Unavailable "run the command again, and read its output as it comes"
    "CANCELLED" Refused "run the command again"
    "CEREMONY_REQUIRED" Refused "custodians decide this with their tokens: see `keyward ceremony propose --help`"
    "CERTIFICATE_REFUSED" Integrity "ask whoever gave you the file for it once more, and for the keys of the log by another way"
    "CIPHERTEXT_MALFORMED" Integrity "give the whole ciphertext as it was made: `kw1:` and all that follows, or raw bytes with --raw or --in"
    "CIPHERTEXT_REFUSED" Integrity "check tenant, key and every --context pair; if all fit, the data was changed"
    "CLOCK_SUSPECT" Unavailable "see `keyward status`; set the clock right, or run `keyward clock accept --reason WHY`"
    "CONFIGURATION_REFUSED" Refused "mend the file, look at it with `keywardd --check-config`, and reload again"
    "CONFLICT" Refused "somebody changed the same thing at the same moment; run the command again"
    "CONTEXT_INVALID" Refused "--context keys must not start with `keyward:`; keep keys and values short"
    "DEADLINE_EXCEEDED" Unavailable "see `keyward status` and the log of keywardd, then try again"
    "DESTROYED" Refused "nothing brings it back"
    "DESTRUCTION_SCHEDULED" Refused "an operator can call it off with `cancel-destroy` until the due date"
    "ENROLMENT_REFUSED" Refused "make it again from the ticket; once that is used or has expired, from another one: `keyward account enroll NAME --out FILE`"
    "FROZEN" NotPermitted "find out why it was frozen before `unfreeze`, or `ceremony propose unfreeze` once the root is founded"
    "HSM_BUSY" Unavailable "try again in a moment; if it stays so, raise hsm.sessions in the configuration"
    "HSM_UNAVAILABLE" Unavailable "see `keyward status`; the daemon connects again by itself when the HSM is back"
    "INDEX_FIELD_LIMIT" Refused "a field is a column, not a value: use the same name for each; an administrator can raise limits.index_fields"
    "INTERNAL" Internal "this is a defect: the log of keywardd has the details"
    "KEY_DISABLED" Refused "see `keyward key show KEY`; an operator can run `keyward key enable KEY`"
    "KEY_EXHAUSTED" Refused "rotate the tenant: `keyward tenant rotate TENANT`, or by a ceremony where its KEK is in the HSM"
    "LOGIN_FAILED" NotPermitted "the audit log has the reason: `as_keyward audit show` on the machine of the daemon"
    "LOGIN_LIMIT" Unavailable "wait, or have the application limit how often its clients begin a login"
    "LOGIN_OVER" Refused ""
    "METHOD_UNKNOWN" Internal "check that keyward and keywardd are of the same version: `keyward status`"
    "NAME_INVALID" Refused "names are short, `acme/customer-pii`, or full, `tenants/acme/keys/customer-pii`"
    "NOT_ALLOWED" Refused ""
    "NOT_FOUND" NotFound "`keyward tenant list`, `keyward key list TENANT`, `keyward account list` and `keyward admin list` show what there is"
    "NOT_READY" Unavailable "see `keyward status` for what the daemon waits for"
    "PERMISSION_DENIED" NotPermitted "the [[principal]]s of the configuration say who may: an operator for keys and tenants, a grant for data, an origin for logins"
    "PROTOCOL" Internal "check that keyward and keywardd are of the same version: `keyward status`"
    "REFUSED_TOO_OFTEN" NotPermitted "find out what is refused all the time: `as_keyward audit show` on the machine of the daemon"
    "RIGHTS_CHANGED" Unavailable "run the command again: it is judged by the configuration of now"
    "SHUTTING_DOWN" Unavailable "try again when the daemon has restarted"
    "SOCKET_FORBIDDEN" NotPermitted "after you were added to the group, log in again"
    "STORE_FULL" Unavailable "make room on the disk of the store; nothing was changed"
    "STORE_TAMPERED" Integrity "stop changing things, run `keyward store check`, and follow the runbook"
    "STORE_UNAVAILABLE" Unavailable "the log of keywardd says why"
    "TOKEN_BUSY" Unavailable "end the other program that uses the token, then try again"
    "TOKEN_FACTORY_SECRET" NotPermitted "`keyward token change-pin --piv` and `keyward token change-puk --piv` change them; `keyward token list --piv --json` shows what is left to change"
    "TOKEN_FAILED" Unavailable "pull the token out, plug it in and try again; `keyward token list` shows what it has"
    "TOKEN_KEY" NotFound "`keyward token list` shows the keys; name one by --key LABEL or --key id:HEX, or make them: `keyward token generate --name NAME`"
    "TOKEN_LOST" Unavailable "plug the token in and leave it there, then try again; when a library crashes or hangs again and again, it is its vendor's case"
    "TOKEN_MISSING" NotFound "plug the token in, or wait for it with --wait; `keyward token list` shows which are there"
    "TOKEN_MODULE" Refused "for a PIV card pcscd must run; for other tokens --module names their vendor's PKCS#11 library, such as opensc-pkcs11.so"
    "TOKEN_PIN_LAST_TRY" NotPermitted "be sure of the PIN, then add --last-try"
    "TOKEN_PIN_UNUSABLE" NotPermitted "`keyward token unblock` sets a new PIN, by the PUK or the security officer's PIN"
    "TOKEN_PIN_WRONG" NotPermitted "nothing was tried again: run the command once more with the right PIN or PUK"
    "TOKEN_PUK_LOCKED" NotPermitted "reset the token with its vendor's program, and have its new keys put on record"
    "TOKEN_REFUSED" Refused "use the token whose keys are on record for this"
    "TOKEN_UNTOUCHED" Unavailable "run it again, and touch the token when it blinks"
    "TOO_LARGE" Refused "send less at a time; files of any size go through --in and --out"
    "TOO_MUCH_IN_FLIGHT" Unavailable "try again when other calls have ended; limits.in_flight_per_principal says how much may be under way"
    "TRANSCRIPT_REFUSED" Integrity "this file proves nothing: get the transcript again with `keyward ceremony transcript ID --out FILE`"
    "UNKNOWN_CALLER" NotPermitted "work as a user that the configuration names, or have an administrator add a [[principal]]; what is the daemon's own (store check, store export) runs as its user"
    "UNREACHABLE" Unavailable "`systemctl status keywardd` shows the daemon; --socket or KEYWARD_SOCKET names another socket"
    "VERSION_DISABLED" Refused "see `keyward key versions KEY`; an operator can run `keyward version enable VERSION`"
    "VERSION_TOO_OLD" Refused "it can be lowered: `keyward key update KEY --min-version N`, or by a ceremony once the root is founded"
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_follow_the_house_rules() {
        for Row { reason, hint, .. } in ROWS {
            assert!(!hint.ends_with('.'), "{reason}: ends with a period");
            assert!(!hint.starts_with(|c: char| c.is_uppercase()), "{reason}: starts with a capital");
        }
        assert!(ROWS.is_sorted_by_key(|row| row.reason), "sorted, so that none stands here twice");
    }
}

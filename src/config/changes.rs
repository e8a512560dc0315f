//! What differs between two configurations, and whether a running daemon takes it up.

use super::{Audit, Config, Limits, Log, Principal, Server};

/// The options of a configuration that differ from the one in force.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Those that a running daemon takes up, in the words of the file.
    pub taken: Vec<String>,
    /// Those that it reads when it starts, and then only.
    pub restart: Vec<String>,
}

impl Changes {
    fn note(&mut self, option: &str, how: How, same: bool) {
        if same {
            return;
        }
        match how {
            How::Running => self.taken.push(option.to_owned()),
            How::Restart => self.restart.push(option.to_owned()),
        }
    }
}

/// When an option is taken up.
#[derive(Debug, Clone, Copy)]
enum How {
    Running,
    Restart,
}

/// Compares two tables field by field. The pattern names every field, so that none is forgotten.
macro_rules! compare {
    ($found:ident, $old:expr, $new:expr, $table:ident { $($field:ident: $name:literal $how:ident),* $(,)? }
     $(apart from $($other:ident),*)?) => {
        let $table { $($field,)* $($($other: _),*)? } = $old;
        $($found.note($name, How::$how, *$field == $new.$field);)*
    };
}

impl Changes {
    /// What `new` says otherwise than `old`.
    pub fn between(old: &Config, new: &Config) -> Self {
        let mut found = Self::default();
        compare!(found, old, new, Config {
            state_dir: "state_dir" Restart,
            custody: "custody" Running,
            secret_memory: "secret_memory" Restart,
            hsm: "[hsm]" Restart,
            store: "[store]" Restart,
            erasure: "[erasure]" Running,
            class: "[class]" Running,
            rotation: "[rotation]" Running,
            destruction: "[destruction]" Running,
            clock: "[clock]" Running,
            login: "[login]" Running,
        } apart from file, digest, server, log, audit, limits, principals);
        compare!(found, &old.server, new.server, Server {
            socket: "server.socket" Restart,
            socket_mode: "server.socket_mode" Restart,
            shutdown_grace: "server.shutdown_grace" Restart,
            max_connections: "server.max_connections" Running,
            max_connections_per_uid: "server.max_connections_per_uid" Running,
            allow_own_user: "server.allow_own_user" Running,
        });
        compare!(found, &old.log, new.log, Log {
            level: "log.level" Running,
            format: "log.format" Restart,
        });
        compare!(found, &old.audit, new.audit, Audit {
            directory: "audit.directory" Restart,
            segment: "audit.segment" Restart,
            reserve: "audit.reserve" Restart,
            list_decrypted_items: "audit.list_decrypted_items" Running,
            checkpoint_interval: "audit.checkpoint_interval" Running,
        });
        compare!(found, &old.limits, new.limits, Limits {
            plaintext: "limits.plaintext" Running,
            batch_items: "limits.batch_items" Running,
            batch: "limits.batch" Running,
            open_keys: "limits.open_keys" Running,
            in_flight_per_connection: "limits.in_flight_per_connection" Running,
            in_flight_per_principal: "limits.in_flight_per_principal" Running,
            index_fields: "limits.index_fields" Running,
            refusals_per_second: "limits.refusals_per_second" Running,
        });
        found.principals(&old.principals, &new.principals);
        found
    }

    fn principals(&mut self, old: &[Principal], new: &[Principal]) {
        let of = |list: &[Principal], name| list.iter().find(|one| one.name == name).cloned();
        for one in old {
            match of(new, one.name.clone()) {
                None => self.taken.push(format!("principal {} is gone", one.name)),
                Some(now) if now != *one => self.taken.push(format!("principal {}", one.name)),
                Some(_) => {}
            }
        }
        let come = new.iter().filter(|one| of(old, one.name.clone()).is_none());
        self.taken.extend(come.map(|one| format!("principal {} is new", one.name)));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const BEFORE: &str = r#"
state_dir = "/var/lib/keyward"
[hsm]
module = "/usr/lib/softhsm/libsofthsm2.so"
token = "keyward"
pin_file = "/etc/keyward/pin"
[[principal]]
name = "crm"
role = "application"
users = [1000]
[[principal]]
name = "ops"
role = "operator"
users = [1001]
"#;

    fn config(text: &str) -> Config {
        Config::parse(text, Path::new("k.toml")).unwrap_or_else(|error| panic!("{error}"))
    }

    fn changes(edit: impl FnOnce(String) -> String) -> Changes {
        Changes::between(&config(BEFORE), &config(&edit(BEFORE.to_owned())))
    }

    #[test]
    fn the_same_words_in_another_order_change_nothing() {
        let same = changes(|text| text.replacen('\n', "\n# a comment\n", 1));
        assert_eq!(same, Changes::default());
    }

    #[test]
    fn each_change_is_named_with_when_it_counts() {
        let found = changes(|text| {
            text.replace("token = \"keyward\"", "token = \"other\"")
                .replace("users = [1000]", "users = [1000, 1002]")
                .replace("\"ops\"", "\"operators\"")
                + "[limits]\nplaintext = \"2MiB\"\n[log]\nlevel = \"debug\"\nformat = \"json\"\n"
        });
        let taken = [
            "log.level",
            "limits.plaintext",
            "principal crm",
            "principal ops is gone",
            "principal operators is new",
        ];
        assert_eq!(found.taken, taken);
        assert_eq!(found.restart, ["[hsm]", "log.format"]);
    }
}

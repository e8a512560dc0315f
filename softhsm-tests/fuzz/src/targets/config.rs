//! The configuration of the daemon.

use std::path::Path;

use keyward::config::Config;

/// Reads `data` as a configuration; what is accepted keeps its promises, what is
/// refused is explained in lines that name the file.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Config::parse(text, Path::new("fuzz.toml")) {
        Ok(config) => {
            assert!(config.server.socket.as_os_str().len() <= 107);
            assert_eq!(config.server.socket_mode.0 & 0o007, 0, "the socket is open to others");
            assert!(config.hsm.pin_file.is_some() != config.hsm.pin_credential.is_some());
            assert!((1..=256).contains(&config.hsm.sessions));
            assert!(config.limits.batch_items > 0 && config.limits.plaintext.0 > 0);
        }
        Err(error) => assert!(error.to_string().starts_with("fuzz.toml: "), "{error}"),
    }
}

/// The example with every option, and the least that is enough.
pub fn seeds() -> Vec<Vec<u8>> {
    let example = include_str!("../../../../hsm-config/keywardd.toml");
    let every_option: String =
        example.lines().map(|line| format!("{}\n", line.strip_prefix("# ").unwrap_or(line))).collect();
    let least = "state_dir = \"/s\"\n[hsm]\nmodule = \"/m\"\ntoken = \"t\"\npin_file = \"/p\"\n";
    let principal = "[[principal]]\nname = \"a\"\nrole = \"operator\"\nusers = [0, \"root\"]\n\
                     allow = [{ keys = [\"tenants/*/keys/*\"], operations = [\"encrypt\"] }]\n";
    let class = "[class.3]\ncache_ttl = \"1h 30m\"\n[limits]\nplaintext = \"2MiB\"\nbatch = 7\n";
    [example, &every_option, least, &format!("{least}{principal}"), &format!("{least}{class}")]
        .map(|text| text.as_bytes().to_vec())
        .into()
}

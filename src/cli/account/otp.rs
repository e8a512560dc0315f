//! `keyward account otp` and `otp-confirm`

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use zeroize::Zeroizing;

use crate::cli::Shell;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::name;
use crate::cli::output::Output;
use crate::id::AccountName;
use crate::rpc::proto::{ConfirmOtpRequest, CreateOtpRequest};

/// `keyward account otp`
#[derive(Debug, Args)]
#[command(after_help = "The seed is shown once, as an otpauth URI that authenticator programs read, and on a
terminal as a QR code that they scan. It counts once `account otp-confirm` has seen a first password.

Examples:
  keyward account otp alice --out alice.otpauth
  keyward account otp bob --hotp --seed-file token-4711.seed")]
pub(crate) struct Otp {
    /// The account
    #[arg(value_parser = name::account)]
    account: AccountName,
    /// By counter (RFC 4226), not by time (RFC 6238)
    #[arg(long, conflicts_with = "period")]
    hotp: bool,
    /// Hash function
    #[arg(long, value_name = "HASH", default_value = "SHA1", value_parser = ["SHA1", "SHA256", "SHA512"])]
    hash: String,
    /// Digits of a password
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u32).range(6..=8))]
    digits: u32,
    /// Seconds for which a password is shown
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(15..=120))]
    period: Option<u32>,
    /// Seed of a password token: 16 to 32 bytes in hexadecimal, in a file that only you can read
    #[arg(long, value_name = "FILE")]
    seed_file: Option<PathBuf>,
    /// File to write the URI to; stdout when not given
    #[arg(long, value_name = "FILE", conflicts_with = "seed_file")]
    out: Option<PathBuf>,
    /// Replace the file
    #[arg(long, requires = "out")]
    force: bool,
}

impl Otp {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<Exit, Failure> {
        let seed = match &self.seed_file {
            Some(path) => read_seed(path)?,
            None => Zeroizing::new(Vec::new()),
        };
        let mut output = match &self.out {
            Some(path) => Some(Output::open(Some(path), self.force)?),
            None => None,
        };
        let client = shell.client().await?;
        let request = CreateOtpRequest {
            name: self.account.to_string(),
            hotp: self.hotp,
            hash: self.hash.clone(),
            digits: self.digits,
            period: self.period.unwrap_or_default(),
            seed: bytes::Bytes::from_owner(seed),
        };
        let made = client.call(client.logins().create_otp(request)).await?;
        if let Some(output) = &mut output {
            output.writer().write_all(&made.uri).await.map_err(Failure::file("write", output.path()))?;
        }
        if let Some(output) = output {
            output.commit().await?;
        }
        self.tell(shell, &made.uri)?;
        shell.print.note(&format!("next: `keyward account otp-confirm {}`", self.account.0));
        Ok(Exit::Ok)
    }

    fn tell(&self, shell: &mut Shell, uri: &[u8]) -> Result<(), Failure> {
        let name = self.account.to_string();
        match (&self.out, uri.is_empty()) {
            (Some(out), _) => {
                let note = format!("wrote {}: delete it once the authenticator has it", out.display());
                shell.print.report(&note, &json!({ "name": name, "out": out }))
            }
            (None, true) => shell.print.report("the token's seed is on record", &json!({ "name": name })),
            (None, false) => {
                let uri = std::str::from_utf8(uri).map_err(|error| Failure::Input(error.to_string()))?;
                if shell.print.to_terminal && !shell.print.is_json() {
                    shell.print.text(&qr_code(uri)?)?;
                }
                shell.print.answer(uri, &json!({ "name": name, "uri": uri }))
            }
        }
    }
}

/// What a camera reads off a terminal, whatever its colours: white modules are printed, on black.
fn qr_code(text: &str) -> Result<String, Failure> {
    let code = QrCode::new(text).map_err(|error| Failure::Input(error.to_string()))?;
    let drawn = code.render().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build();
    Ok(drawn.lines().map(|line| format!("\x1b[97;40m{line}\x1b[0m\n")).collect())
}

fn read_seed(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    /// Hexadecimal digits of the longest seed, and a line end.
    const LONGEST: u64 = 66;
    let length = std::fs::metadata(path).map_err(Failure::file("read", path))?;
    if length.permissions().mode() & 0o077 != 0 {
        let words = format!("others can read {}: chmod 600 it", path.display());
        return Err(Failure::Input(words));
    }
    let bad = || Failure::Input(format!("{} has no seed of 16 to 32 bytes in hexadecimal", path.display()));
    if length.len() > LONGEST {
        return Err(bad());
    }
    let text = Zeroizing::new(std::fs::read_to_string(path).map_err(Failure::file("read", path))?);
    let seed =
        hex::decode(text.trim_start_matches('\u{feff}').trim()).map(Zeroizing::new).map_err(|_| bad())?;
    if (16..=32).contains(&seed.len()) { Ok(seed) } else { Err(bad()) }
}

/// `keyward account otp-confirm`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  keyward account otp-confirm alice\n  keyward account otp-confirm bob --resync"
)]
pub(crate) struct Confirm {
    /// The account
    #[arg(value_parser = name::account)]
    account: AccountName,
    /// Take two passwords in a row, of a token whose counter is far ahead (RFC 4226, section 7.4)
    #[arg(long)]
    resync: bool,
    /// File with the password, or with one a line, for scripts; otherwise the terminal is asked
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

impl Confirm {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<Exit, Failure> {
        let prompts = match self.resync {
            true => &["one-time password", "next one-time password"][..],
            false => &["one-time password"],
        };
        let mut given = match &self.password_file {
            Some(path) => {
                let read = crate::cli::document::read(path)?;
                // An editor's mark is no part of what it stands before.
                let read = read.strip_prefix('\u{feff}').unwrap_or(&read);
                read.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect::<Vec<_>>()
            }
            None => {
                let mut typed = Vec::new();
                for prompt in prompts {
                    typed.push(ask(prompt, &self.account).await?);
                }
                typed
            }
        };
        if given.len() != prompts.len() {
            let words = format!("{} passwords were given, and {} are needed", given.len(), prompts.len());
            return Err(Failure::Input(words));
        }
        let following_password = given.split_off(1).pop().unwrap_or_default();
        let password = given.pop().unwrap_or_default();
        let client = shell.client().await?;
        let request = ConfirmOtpRequest { name: self.account.to_string(), password, following_password };
        let account = client.call(client.logins().confirm_otp(request)).await?;
        shell.print.view(&account)?;
        Ok(Exit::Ok)
    }
}

async fn ask(what: &str, account: &AccountName) -> Result<String, Failure> {
    let prompt = format!("{what} of {}: ", account.0);
    let asked = tokio::task::spawn_blocking(move || rpassword::prompt_password(prompt)).await;
    let asked = asked.map_err(|error| Failure::Input(error.to_string()))?;
    let typed = asked.map_err(|error| {
        Failure::Usage(format!(
            "cannot ask for the password ({error}): run it in a terminal, or give --password-file"
        ))
    })?;
    Ok(typed.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_drawn_for_cameras() {
        let uri = "otpauth://totp/Keyward:alice?secret=3TWIPAN6MVDILRB5HRLX6WSUCT5IZLU3YELJ3YFPZZDJR7O56COA&issuer=Keyward";
        let drawn = qr_code(uri).unwrap();
        let lines: Vec<_> = drawn
            .lines()
            .map(|line| line.trim_matches(|c: char| c.is_ascii_graphic() || c == '\x1b'))
            .collect();
        // Two modules a line, and four of quiet around; as wide as high.
        let width = lines[0].chars().count();
        assert!(
            lines.iter().all(|line| line.chars().count() == width) && lines.len() == width.div_ceil(2),
            "{drawn}"
        );
        assert!(width < 80 && lines[0].chars().all(|module| module == '█'), "{drawn}");
    }
}

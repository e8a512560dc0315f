//! A company's certificate authority, made with openssl(1).

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{faketime, text};

/// A root in a folder of its own, which certifies and revokes.
pub struct Authority(PathBuf);

/// What a certificate for logging in says it is for.
pub const LOGIN: &str = "keyUsage=critical,digitalSignature\nextendedKeyUsage=clientAuth\n";

impl Authority {
    /// Makes one, with an empty revocation list.
    pub fn new(folder: PathBuf) -> Self {
        std::fs::create_dir(&folder).expect("a folder");
        // Authorities have names of their own.
        let subject = format!("/CN={}", folder.file_name().expect("a name").display());
        let authority = Self(folder);
        let place = authority.0.display();
        let settings = format!(
            "[req]\ndistinguished_name=name\n[name]\n[ca]\ndefault_ca=root\n[root]\ndatabase={place}/index.txt\ncrlnumber={place}/crlnumber\ndefault_md=sha256\ndefault_crl_days=1\n"
        );
        authority.write("settings", &settings);
        authority.write("index.txt", "");
        authority.write("crlnumber", "01\n");
        let [key, root] = [authority.path("key"), authority.path("root.pem")];
        openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", &key], None);
        let extensions = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"];
        let settings = authority.path("settings");
        let make =
            ["req", "-x509", "-new", "-config", &settings, "-key", &key, "-days", "30", "-subj", &subject];
        openssl(&[&make[..], &extensions, &["-out", &root]].concat(), None);
        authority.list();
        authority
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.join(name), text).expect("a file");
    }

    /// Its certificate, in PEM.
    pub fn root(&self) -> String {
        self.path("root.pem")
    }

    /// Its revocation list, in PEM.
    pub fn revocations(&self) -> String {
        self.path("list.pem")
    }

    /// Makes the list anew, for one day.
    pub fn list(&self) {
        self.ca(&["-gencrl", "-out", &self.revocations()]);
    }

    /// Makes a list that only tells what is new since another one, in PEM.
    pub fn delta_list(&self, out: &str) {
        let settings = std::fs::read_to_string(self.path("settings")).expect("a file");
        self.write(
            "settings",
            &format!("{settings}crl_extensions=delta\n[delta]\n2.5.29.27=critical,DER:020101\n"),
        );
        self.ca(&["-gencrl", "-out", out]);
        self.write("settings", &settings);
    }

    /// Makes a list of version 1, which has no extensions, in DER.
    pub fn list_of_version_1(&self, out: &str) {
        let pem = format!("{out}.pem");
        self.write("crlnumber", "");
        let settings = std::fs::read_to_string(self.path("settings")).expect("a file");
        let without: Vec<&str> = settings.lines().filter(|line| !line.starts_with("crlnumber")).collect();
        self.write("settings", &without.join("\n"));
        self.ca(&["-gencrl", "-out", &pem]);
        openssl(&["crl", "-in", &pem, "-outform", "DER", "-out", out], None);
        self.write("settings", &settings);
        self.write("crlnumber", "09\n");
    }

    fn ca(&self, arguments: &[&str]) {
        let [settings, key, root] = [self.path("settings"), self.path("key"), self.root()];
        let fixed = ["ca", "-config", &settings, "-keyfile", &key, "-cert", &root];
        openssl(&[&fixed[..], arguments].concat(), None);
    }

    /// Certifies a public key (SubjectPublicKeyInfo in DER) for a day, as of a time such as `-3d` where that is
    /// not now. Answers the file of the certificate, in PEM.
    pub fn certify(&self, name: &str, spki: &[u8], extensions: &str, time: Option<&str>) -> PathBuf {
        let [der, public, certificate] =
            [format!("{name}.der"), format!("{name}.pub"), format!("{name}.pem")]
                .map(|name| self.path(&name));
        std::fs::write(&der, spki).expect("a file");
        openssl(&["pkey", "-pubin", "-inform", "DER", "-in", &der, "-out", &public], None);
        self.write("extensions", extensions);
        let [root, key, extensions] = [self.root(), self.path("key"), self.path("extensions")];
        let subject = format!("/O=Company/CN={name}");
        let make =
            ["x509", "-new", "-force_pubkey", &public, "-subj", &subject, "-CA", &root, "-CAkey", &key];
        let rest = ["-days", "1", "-extfile", &extensions, "-out", &certificate];
        openssl(&[&make[..], &rest].concat(), time);
        certificate.into()
    }

    /// Revokes a certificate; a new list says so.
    pub fn revoke(&self, certificate: &Path) {
        self.ca(&["-revoke", &certificate.display().to_string()]);
        self.list();
    }
}

fn openssl(arguments: &[&str], time: Option<&str>) {
    let mut command = Command::new("openssl");
    if let Some(time) = time {
        command.env("LD_PRELOAD", faketime::library()).env("FAKETIME", time);
    }
    let output = command
        .args(arguments)
        .output()
        .expect("openssl is not installed: run softhsm-tests/scripts/setup.sh");
    assert!(output.status.success(), "openssl {arguments:?}: {}", text(&output));
}

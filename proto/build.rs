//! Compiles the protobuf files without protoc.

use std::path::Path;

/// What these messages are when nothing is said of a field; the others begin empty.
const DEFAULTS: [(&str, &str); 6] = [
    ("FailoverDomain", "crate::file::failover_domain"),
    ("VmPolicy", "crate::file::vm_policy"),
    ("VmHandling", "crate::file::vm_handling"),
    ("MigrationOptions", "crate::file::migration_options"),
    ("Settings", "crate::file::settings"),
    ("ServicePolicy", "crate::file::service_policy"),
];

/// The files whose messages can be written in files.
const WRITTEN: [&str; 3] = ["types.proto", "service.proto", "fleet.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new("proto");
    let mut files: Vec<_> = std::fs::read_dir(root.join("berth/v1"))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.sort();
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(&files, [root])?;
    let mut builder = tonic_prost_build::configure().bytes(".");
    // What operators define is written in files with the fields' own names: all of these can be.
    let written = |name: &str| WRITTEN.iter().any(|file| name.ends_with(file));
    for message in descriptors
        .file
        .iter()
        .filter(|file| written(file.name()))
        .flat_map(|file| &file.message_type)
    {
        let path = format!(".berth.v1.{}", message.name());
        let default = DEFAULTS.iter().find(|(name, _)| *name == message.name());
        let default =
            default.map_or("default".into(), |(_, function)| format!("default = {function:?}"));
        builder = builder
            .message_attribute(&path, "#[derive(serde::Serialize, serde::Deserialize)]")
            .message_attribute(&path, format!("#[serde({default}, deny_unknown_fields)]"));
        for oneof in &message.oneof_decl {
            // A field that may be left out is a oneof of its own, without a type of its own.
            if !oneof.name().starts_with('_') {
                builder = builder.type_attribute(
                    format!("{path}.{}", oneof.name()),
                    "#[derive(serde::Serialize, serde::Deserialize)] #[serde(rename_all = \"kebab-case\")]",
                );
            }
        }
    }
    builder.compile_fds(descriptors)?;
    Ok(())
}

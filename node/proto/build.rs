//! Compiles the .proto files without protoc: protox is a protobuf compiler in Rust.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["proto/dynamo/v1/kv.proto", "proto/dynamo/v1/peer.proto", "proto/dynamo/v1/admin.proto"];
    let descriptors = protox::compile(files, ["proto"])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("dynamo.v1.descriptors.bin"), {
        use prost::Message;
        descriptors.encode_to_vec()
    })?;
    tonic_prost_build::configure().bytes(".").codec_path("crate::codec::BoundedCodec").compile_fds(descriptors)?;
    println!("cargo:rerun-if-changed=proto");
    Ok(())
}

#include "vmm/control/testing/test_server.h"

#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/support/channel_arguments.h"
#include "gtest/gtest.h"

namespace bulkhead::vmm {

TestServer::TestServer(const ControlLimits& limits, Kind kind)
    : path(absl::StrCat(::testing::TempDir(), "/", getpid(), ".sock")) {
  absl::StatusOr<ListeningSocket> socket = ListeningSocket::Open(path);
  if (!socket.ok()) {
    ADD_FAILURE() << socket.status();
    return;
  }
  absl::StatusOr<std::unique_ptr<ControlServer>> started =
      kind == Kind::kControl
          ? ControlServer::Start(vm, *std::move(socket), refused, limits)
          : ControlServer::StartMonitor(vm, *std::move(socket), kControlSocket, refused, limits);
  if (started.ok()) {
    server = *std::move(started);
  } else {
    ADD_FAILURE() << started.status();
  }
}

std::shared_ptr<grpc::Channel> TestServer::Connect() const {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(absl::StrCat("unix:", path), grpc::InsecureChannelCredentials(),
                                   arguments);
}

std::unique_ptr<v1::VmControl::Stub> TestServer::NewStub() const {
  return v1::VmControl::NewStub(Connect());
}

}  // namespace bulkhead::vmm

#ifndef BULKHEAD_BASE_TESTING_FILES_H_
#define BULKHEAD_BASE_TESTING_FILES_H_

#include <stdlib.h>

#include <fstream>
#include <sstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "gtest/gtest.h"

namespace bulkhead {

// The path of a file in the test's own folder.
inline std::string TempPath(absl::string_view name) {
  return absl::StrCat(::testing::TempDir(), "/", name);
}

// The path of a new folder in there, short enough for sockets.
inline std::string MakeTempFolder() {
  std::string path = TempPath("XXXXXX");
  EXPECT_NE(mkdtemp(path.data()), nullptr);
  return path;
}

// Writes a file into the test's own folder; returns its path.
inline std::string WriteTempFile(absl::string_view name, const std::string& contents) {
  std::string path = TempPath(name);
  EXPECT_TRUE((std::ofstream(path, std::ios::binary) << contents).flush().good()) << path;
  return path;
}

// The contents of a file, or what can be read of it: a process of /proc may be gone by then.
inline std::string ReadFile(const std::string& path) {
  std::ostringstream contents;
  contents << std::ifstream(path, std::ios::binary).rdbuf();  // unlike its iterator, does not throw
  return contents.str();
}

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_TESTING_FILES_H_

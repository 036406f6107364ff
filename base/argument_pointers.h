#ifndef BULKHEAD_BASE_ARGUMENT_POINTERS_H_
#define BULKHEAD_BASE_ARGUMENT_POINTERS_H_

#include <string>
#include <vector>

namespace bulkhead {

// Arguments or environment as execve(2) takes them: pointers into `strings`, then a null pointer.
// execve(2) does not change the strings.
inline std::vector<char*> ArgumentPointers(const std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (const std::string& text : strings) pointers.push_back(const_cast<char*>(text.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_ARGUMENT_POINTERS_H_

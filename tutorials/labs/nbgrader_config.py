"""The settings of a course made of these labs; nbgrader reads the file in the course's folder."""

c = get_config()  # noqa: F821 (nbgrader provides it)

c.CourseDirectory.course_id = "control-as-inference"
c.Execute.timeout = 120  # seconds a cell; a fit takes a few
c.ClearSolutions.code_stub = {
    "python": '# YOUR CODE HERE\nraise NotImplementedError("write your answer here, and delete this line")'
}
